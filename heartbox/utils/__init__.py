"""What every part needs and none owns: whole files, parallel work, notebook widgets."""
