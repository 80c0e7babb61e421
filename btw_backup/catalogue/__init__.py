"""The catalogue: an SQL index over what lies in files. The files are the truth; it can be deleted at any time.

`journal` holds the runs, and imports nothing that takes time to load: a backup run only appends to it. `tables`,
`database` and `index` are the database, which is brought up to date when somebody asks it something.
"""
