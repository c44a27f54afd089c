"""One self-contained ONNX file: the graph with the preparation inside, the model card, and a proof of parity."""
