"""Pictures, masks and phrases: a reader for each data set's own files, one type for all."""
