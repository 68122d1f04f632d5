"""What a DAG task or a CLI command calls: ids in, ids out. Gathers, decides, acts."""
