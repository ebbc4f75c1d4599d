//! Simulation: many nodes, one seed, a clock that jumps.
