"""Stand-ins for programs that ptychoflow drives and does not contain."""
