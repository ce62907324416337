"""What several rooms need and none owns: files, processes, settings, text. Free of torch; imports nothing of ours."""
