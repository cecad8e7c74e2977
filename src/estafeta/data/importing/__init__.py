"""The import of data into the store: files as people have them, read as streams, written as blocks.

    sources.py      the reader for each source
    delimited.py    CSV and TSV  ┐ tables: tabular.py makes numbers and codes of their columns
    parquet.py      Parquet      ┘
    arrays.py       .npy and .npz
    svmlight.py     sparse text
    factory.py      a map-style data set by `module:factory`
    missing.py      missing values
    statistics.py   mean, deviation, classes
    writer.py       rows into blocks
    importer.py     the whole import: published, or nothing left

It must not know runs. The whole data set is never in memory: a source yields chunks, a writer holds one block.
"""
