"""Types that the entry process and the model processes agree on."""
