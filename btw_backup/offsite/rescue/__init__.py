"""What lies at every target with the layout objects for the day when this program is gone."""
