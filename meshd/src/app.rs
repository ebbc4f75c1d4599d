//! The only wiring: builds shells and channels, starts and stops them in order.
