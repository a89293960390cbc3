"""Data: from whatever a user has to one table of samples, with splits, folds, duplicates and a check.

``load_samples`` turns folders, tables, archives, arrays and other libraries' data sets into :class:`Samples`; images
are opened only when they are embedded or checked. Importing this package loads neither pandas, torch nor scikit-learn.
"""
