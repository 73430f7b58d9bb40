"""HTTP itself, whatever the protocol: reading a request within limits, answering it, hanging up."""
