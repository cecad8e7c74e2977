"""What `control` is asked to do, a verb a file. Each verb may be repeated and gives the same answer.

A verb must not train: it reads and writes the folder of a run or a data set.
"""
