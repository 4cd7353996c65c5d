"""Types that the entry service and the runners share."""
