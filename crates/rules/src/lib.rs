//! Per kind, pure: defaults, preparation, validation, status split, conversion, table cells
