"""The use case as one object.

`definition` holds the class UseCase, `checks` refuses what a file may not say, and `loading` finds use cases by
name and loads them.
"""
