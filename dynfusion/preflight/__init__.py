"""What `dynfusion doctor` judges: observations in, findings out. Nothing here looks at a machine by itself."""
