"""Where arrays live: the device mesh, the rules from logical axes to it, placing of arrays."""
