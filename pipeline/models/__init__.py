"""The network: its facts (`descriptor`, no torch), its layers (`hdrunet`) and its weights (`checkpoint`)."""
