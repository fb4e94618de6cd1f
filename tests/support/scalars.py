"""What people type where a text is wanted, and YAML 1.1 makes numbers, truths and dates of."""

AS_TYPED = [
    *("020222", "0777", "03", "08", "0o17", "0x10", "0b11", "1_000", "12_34", "1e3", "1.0", "+5", "-0", ".5", "1."),
    *("on", "off", "yes", "No", "TRUE", "y", "n", "nan", ".nan", ".inf", "-.Inf", "=", "nullify", "~user"),
    *("2026-11-29", "2026-11-29T12:30:00Z", "12:30:00", "1:30", "0-12:00:00", "190:20:30.15", "v1.0", "a b", "日本"),
]
