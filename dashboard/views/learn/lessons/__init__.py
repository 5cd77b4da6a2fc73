"""One lesson a file, each with a `LESSON`; the page finds them by themselves, in order of their names."""
