"""Parts for other people's programs, a module for each; its extra brings the program."""
