//! The binary as runtimes start it, against a daemon that is absent, right, slow or rude.

#[cfg(test)]
mod away;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod rude;
#[cfg(test)]
mod runtime;
