"""Published encoders: the table of records, downloads, `load_encoder`, and what convert and export do."""
