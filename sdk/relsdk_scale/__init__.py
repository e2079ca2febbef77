"""More than one machine: shards on Ray, documents in Milvus and Qdrant. One file an engine, each an extra."""
