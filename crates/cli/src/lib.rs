//! kubectl: a file per verb
