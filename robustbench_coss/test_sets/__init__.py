"""Published test sets as data: a YAML file each, and what reads them (README.md)"""
