"""The report: runs or a study as one HTML file, and its pictures as PNG files.

content   what is read, from run folders, the folder of a sweep or a storage
weights   how much of an objective's variance each parameter explains
figures   the pictures
page      the file
"""
