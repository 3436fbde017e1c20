"""The handler package: one image classifier behind every kind of Lambda event.

It runs in AWS Lambda, in the local container and inside the `mlinfer` command, and imports nothing of `mlinfer`.
`handler` is Lambda's entry point, `service` answers events, `events` knows their shapes, `images` turns bytes into the
tensor that the model wants, `inference` fetches the ONNX file and asks it.
"""
