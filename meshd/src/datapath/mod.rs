//! The data thread: TUN and UDP on one side, the engine on the other.
