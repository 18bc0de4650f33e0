"""Reads untrusted pickles without `pickle`: no name in a file is looked up, called or instantiated.

`machine` executes the operations of a pickle. Its subclasses decide what names mean: `plain` supports byte arrays.
"""
