"""Parquet files of images: schema, labels, rows, shards."""
