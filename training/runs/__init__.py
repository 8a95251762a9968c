"""The folder of a campaign: state, events, records, what its machine is."""
