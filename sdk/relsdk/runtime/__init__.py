"""Run a model's file: CPU and threads, tokenizer, batches, onnxruntime."""
