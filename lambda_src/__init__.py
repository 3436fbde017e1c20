"""The handler: classify the image of any Lambda event.

It runs in AWS Lambda, in the local container and in the `mlinfer` command, and does not import `mlinfer`. `handler` is
Lambda's entry point, `service` answers events, `events` parses them, `images` converts an image to the model's input
tensor, and `inference` fetches and runs the ONNX file.
"""
