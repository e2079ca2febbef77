"""What runs a model's file: the CPU, the tokenizer, batches, and onnxruntime."""
