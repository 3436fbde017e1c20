"""One resource of AWS each: what is there, what is wanted, and what is changed."""
