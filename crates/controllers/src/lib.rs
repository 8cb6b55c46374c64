//! The controllers: what is declared becomes what is
