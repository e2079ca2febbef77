"""Grades of a language model in place of people: asked for, counted beforehand, written down."""
