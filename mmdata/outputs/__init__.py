"""A finished dataset in the forms that others read: one file per form, and the way to where it is published."""
