"""Pickles of any origin, read without `pickle`: nothing is looked up, called or made that a file names.

`machine` carries out the `operations` that a pickle is written with. What names stand for, if anything, is for those
who use it to say: `plain` knows arrays of bytes.
"""
