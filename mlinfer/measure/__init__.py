"""What the function takes of time, memory and money, wherever it runs, and which memory size to give it."""
