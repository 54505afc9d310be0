"""The command `tf-blocksparse`. A package beside `tf_blocksparse`, as it has to work where that cannot be imported."""
