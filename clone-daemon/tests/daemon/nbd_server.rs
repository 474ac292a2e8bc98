//! The NBD server, by those who connect to it.

mod served;
mod tools;
