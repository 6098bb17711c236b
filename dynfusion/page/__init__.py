"""What every report's page is made of: blocks, figures in the page's colours, templates."""
