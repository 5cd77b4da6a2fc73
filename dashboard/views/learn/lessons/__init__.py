"""One lesson a file, each with a `LESSON`; the page finds them, in order of the files' names."""
