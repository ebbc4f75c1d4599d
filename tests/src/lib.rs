//! Nothing lives here: the targets beside this file are the package.
