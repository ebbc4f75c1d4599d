//! Who a packet is for, and how it is sealed.
