"""Varied text, made from nothing but a seed: the inputs of the tokenizer's golden files and of tests/oracle/text.

documents(seed, size) yields strings (never with surrogates) of about `size` characters in all: sentences of many
languages, program code, numbers, white space of every kind, emoji sequences, controls, unassigned and private characters,
added tokens and pieces of them, and characters drawn from all of Unicode.
"""
import random

SENTENCES = [
    "The whale swam past the harbour at noon; nobody's watch agreed.",
    "I'll say it again: they've counted 1,234,567 grains, and we're not done!",
    "Der Wal schwamm mittags am Hafen vorbei – größer als jedes Schiff.",
    "La baleine passa près du port à midi, c'était l'été déjà.",
    "La ballena pasó junto al puerto; ¿quién la vio? ¡Nadie!",
    "A baleia passou pelo porto ao meio-dia e não voltou.",
    "Кит проплыл мимо гавани в полдень, и никто его не видел.",
    "Кит пройшов повз гавань опівдні, її це здивувало.",
    "Η φάλαινα πέρασε από το λιμάνι το μεσημέρι.",
    "鲸鱼在中午游过港口，没有人看见它。水很深！",
    "鯨魚在中午游過港口,一共有３頭。",
    "クジラは正午に港を泳いで通り過ぎた。ラーメン・カレー゛゜ヽヾ",
    "고래가 정오에 항구를 지나갔다. 아무도 보지 못했다.",
    "مرّ الحوت بالميناء ظهرًا ولم يره أحد، وعددها ٢٣٤٥.",
    "הלווייתן שחה ליד הנמל בצהריים; אִישׁ לא ראה.",
    "व्हेल दोपहर में बंदरगाह के पास से गुज़री। संख्या १२३४५",
    "তিমি দুপুরে বন্দরের পাশ দিয়ে গেল।",
    "திமிங்கலம் நண்பகலில் துறைமுகத்தைக் கடந்தது.",
    "วาฬว่ายผ่านท่าเรือตอนเที่ยง ไม่มีใครเห็น ๑๒๓",
    "Cá voi bơi qua cảng lúc giữa trưa, không ai nhìn thấy nó.",
    "Balina öğlen limanın yanından yüzdü; İstanbul'da ışık.",
    "Wieloryb przepłynął obok portu w południe, żółć i gęś.",
    "Velryba proplula kolem přístavu; příliš žluťoučký kůň.",
    "ვეშაპმა შუადღისას ნავსადგურს ჩაუარა.",
    "Կետը կեսօրին անցավ նավահանգստի կողքով։",
    "ዓሣ ነባሪው እኩለ ቀን ላይ ወደቡን አለፈ።",
    "ཉ་ཆེན་ཉིན་གུང་ལ་གྲུ་ཁ་བརྒལ་སོང་།",
    "ឆ្លាមបាឡែនបានហែលកាត់កំពង់ផែនៅថ្ងៃត្រង់។",
    "Nyangumi aliogelea kupita bandarini saa sita mchana.",
    "𝔗𝔥𝔢 𝓌𝒽𝒶𝓁ℯ ① ② Ⅷ ½ ㊿ x² + y³ = z⁴ ≠ ∑∫√∞ ∀x∈ℝ",
]

CODE = [
    "int main(void) {\n    printf(\"%d\\n\", 42);\n\treturn 0;\n}\n",
    "def f(x: float) -> float:\n    \"\"\"Doc.\"\"\"\n    return x**2 + 1e-6  # comment\n\n\n",
    "SELECT a.id, COUNT(*) FROM table_a AS a WHERE a.name LIKE '%x%' GROUP BY 1;\n",
    "<div class=\"box\"><a href='https://example.org/?q=1&r=%20'>link</a></div>\r\n",
    "for (let i=0;i<10;++i){console.log(`${i}: ${arr[i]?.name ?? \"none\"}`)}\n",
    "$ git log --oneline | head -n5 && echo \"done\" > /dev/null 2>&1\n",
    "{\"key\": [1, 2.5, -3e10, null, true], \"nested\": {\"a\": \"\\u00e9\"}}\n",
    "\\begin{align}\n  \\frac{\\partial L}{\\partial w} &= \\sum_{i=1}^{n} x_i \\\\\n\\end{align}\n",
    "| a | b |\n|---|:-:|\n| 1 | **x** |\n\n- [ ] todo\n- [x] ~~done~~\n\n---\n",
    "mov eax, dword ptr [rbp-0x14]\nxor\tebx,ebx\n.L42:\n",
    "#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))\n/* ---- */\n",
    "x = foo.bar_baz[::-1] @ A.T; y |= ~mask & 0xFF; z <<= 3\n",
]

EMOJI = ["😀", "👩‍💻", "🏳️‍🌈", "👍🏽", "🇩🇪🇯🇵", "❤️", "👨‍👩‍👧‍👦", "☃", "✅", "🫠", "1️⃣", "©", "™", "→"]

SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\t\n\t", "\u00a0", "\u3000", "\u2003", "\u2028",
          "\u2029", "\u0085", "\u000b", "\u000c", "\u1680", "\u180e", "\u200b", "\ufeff", "\u202f", "\u205f", "\u2007",
          "    ", "        ", "\n\n\n\n", " \u3000 ", "\u00a0\u00a0", "\x1c", "\x1f"]

MARKUP = ["<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜fim▁hole｜>", "<|EOT|>",
          "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜place▁holder▁no▁17｜>", "<｜place▁holder▁no▁1", "<｜User",
          "<｜<｜User｜>", "<|", "<<|EOT|>>", "<｜▁pad▁｜>", "｜", "▁", "<｜tool▁sep｜><｜tool▁sep｜>"]

# Corners where classes meet: letters, marks, numbers, punctuation, symbols, spaces, controls, Han and kana.
CORNERS = ["a", "Z", "é", "ß", "Ж", "ا", "क", "ि", "\u0301", "\u20dd", "1", "42", "٣", "Ⅷ", "½", "．", "'", "'s", "-", "_", "$",
           "+", "^", "`", "€", "®", "\u3000", "\u30fb", "\u30a0", "\u309b", "\u309c", "\u3040", "\u3097", "\u3099", "\u30fc", "あ",
           "カ", "一", "龥", "\u9fa6", "\u4dff", "ㄅ", "\u200d", "\u200c", "\ufe0f", "\u00ad", "\ue000", "\U000f0000", "\u0378",
           "\x00", "\x01", "\x7f", "\x80", "\ufffd", "\ufffe", "\U0010ffff", "\u088f", "\u1c89", "\U0001ccf0", "\u2427", "。", "「"]


def character(rng):
    kind = rng.random()
    if kind < 0.3:
        code = rng.randrange(0x20, 0x250)
    elif kind < 0.6:
        code = rng.randrange(0x250, 0x3400)
    elif kind < 0.8:
        code = rng.randrange(0x3400, 0x10000)
    else:
        code = rng.randrange(0x10000, 0x20000) if rng.random() < 0.9 else rng.randrange(0x20000, 0x110000)
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"


def word(rng):
    """Letters of one script."""
    first, last = rng.choice([(0x61, 0x7A), (0x61, 0x7A), (0x41, 0x5A), (0xC0, 0xFF), (0x3B1, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA),
                              (0x620, 0x64A), (0x905, 0x939), (0xE01, 0xE2E), (0x10D0, 0x10F0), (0x1100, 0x1160), (0x3041, 0x3096),
                              (0x30A0, 0x30FF), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x10400, 0x1044F), (0x1D400, 0x1D7CB)])
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 12)))


def number(rng):
    zero = rng.choice([0x30] * 8 + [0x660, 0x966, 0xE50, 0xFF10, 0x1D7CE])
    return "".join(chr(zero + rng.randrange(10)) for _ in range(rng.choice([1, 2, 3, 4, 7, 10, 25])))


def part(rng):
    kind = rng.randrange(16)
    if kind < 4:
        return rng.choice(SENTENCES) + rng.choice([" ", "\n", "", "  "])
    if kind < 6:
        return rng.choice(CODE)
    if kind < 8:
        return " ".join(word(rng) for _ in range(rng.randint(1, 8))) + rng.choice([". ", ", ", "\n", " ", "!?\n\n"])
    if kind == 8:
        return number(rng) + rng.choice(["", " ", ",", ".", "%", "px", "\n"])
    if kind == 9:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 5)))
    if kind == 10:
        return "".join(rng.choice(EMOJI) for _ in range(rng.randint(1, 4))) + " "
    if kind == 11:
        return rng.choice(MARKUP)
    if kind == 12:
        return "".join(character(rng) for _ in range(rng.randint(1, 12)))
    if kind == 13:
        return rng.choice("=-*#~_.! \t\naあ一") * rng.choice([1, 2, 3, 5, 16, 40, 100])
    return "".join(rng.choice(CORNERS + SPACES) for _ in range(rng.randint(1, 10)))


def documents(seed, size):
    rng = random.Random(seed)
    while size > 0:
        wanted = rng.choice([1, 3, 20, 200, 2000, 8000])
        parts = []
        while wanted > 0:
            parts.append(part(rng))
            wanted -= len(parts[-1])
        text = "".join(parts)
        size -= len(text)
        yield text
