"""Results of an evaluation: values, intervals, tables and files."""
