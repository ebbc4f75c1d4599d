//! The only netlink and nft calls: what is desired is made so.
