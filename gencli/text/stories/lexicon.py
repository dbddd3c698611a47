"""The words of the demo's small world, in Korean and English."""

from __future__ import annotations

from dataclasses import dataclass

from gencli.text.stories.grammar import indefinite


@dataclass(frozen=True)
class Phrase:
    """A word, a phrase or a sentence in both languages."""

    korean: str
    english: str


@dataclass(frozen=True)
class Person(Phrase):
    """Somebody with a name; `female` chooses the English pronoun."""

    female: bool

    @property
    def he(self) -> str:
        return "she" if self.female else "he"

    @property
    def him(self) -> str:
        return "her" if self.female else "him"

    @property
    def his(self) -> str:
        return "her" if self.female else "his"


@dataclass(frozen=True)
class Place(Phrase):
    """Somewhere to go; `preposition` is the English one for being there."""

    preposition: str

    @property
    def there(self) -> str:
        return f"{self.preposition} {self.english}"

    @property
    def location(self) -> Phrase:
        """Return the answer to "Where did it happen?"."""
        return Phrase(self.korean, self.there)


@dataclass(frozen=True)
class Colour(Phrase):
    """A colour; `korean` stands before a noun, `name` alone."""

    name: str


@dataclass(frozen=True)
class Item:
    """A thing or an animal, with a colour or without."""

    thing: Phrase
    colour: Colour | None = None

    @property
    def korean(self) -> str:
        return f"{self.colour.korean} {self.thing.korean}" if self.colour else self.thing.korean

    @property
    def english(self) -> str:
        """Return the English noun phrase without an article."""
        return f"{self.colour.english} {self.thing.english}" if self.colour else self.thing.english

    @property
    def one(self) -> Phrase:
        """Return the noun phrase, in English with its article."""
        return Phrase(self.korean, indefinite(self.english))


@dataclass(frozen=True)
class Verb:
    """A verb in the Korean and English forms that the stories need."""

    present: str
    past: str
    future: str
    base: str
    third: str
    preterite: str

    @property
    def asked(self) -> str:
        """Return the Korean past as a question: 갔다 → 갔니."""
        return self.past[:-1] + "니"


PEOPLE = (
    Person("미나", "Mina", True), Person("준", "Jun", False), Person("소라", "Sora", True),
    Person("민호", "Minho", False), Person("유나", "Yuna", True), Person("지훈", "Jihun", False),
    Person("수진", "Sujin", True), Person("태오", "Taeo", False), Person("안나", "Anna", True),
    Person("톰", "Tom", False), Person("루시", "Lucy", True), Person("벤", "Ben", False),
)  # fmt: skip

SCHOOL = Place("학교", "school", "at")
MARKET = Place("시장", "the market", "at")
PARK = Place("공원", "the park", "in")
LIBRARY = Place("도서관", "the library", "in")
MUSEUM = Place("박물관", "the museum", "at")
BEACH = Place("바닷가", "the beach", "at")
BAKERY = Place("빵집", "the bakery", "at")
SHOP = Place("가게", "the shop", "at")
ZOO = Place("동물원", "the zoo", "at")
FOREST = Place("숲", "the forest", "in")
FARM = Place("농장", "the farm", "on")
GARDEN = Place("정원", "the garden", "in")
PLAYGROUND = Place("놀이터", "the playground", "at")
STATION = Place("역", "the station", "at")
PLACES = (
    SCHOOL, MARKET, PARK, LIBRARY, MUSEUM, BEACH, BAKERY,
    SHOP, ZOO, FOREST, FARM, GARDEN, PLAYGROUND, STATION,
)  # fmt: skip

COLOURS = (
    Colour("빨간", "red", "빨간색"), Colour("파란", "blue", "파란색"), Colour("노란", "yellow", "노란색"),
    Colour("초록색", "green", "초록색"), Colour("하얀", "white", "하얀색"), Colour("검은", "black", "검은색"),
    Colour("갈색", "brown", "갈색"), Colour("분홍색", "pink", "분홍색"),
)  # fmt: skip
FUR_COLOURS = tuple(colour for colour in COLOURS if colour.english in ("white", "black", "brown"))

APPLE, EGG = Phrase("사과", "apple"), Phrase("달걀", "egg")
CAKE, COOKIE = Phrase("케이크", "cake"), Phrase("쿠키", "cookie")
FOODS = (APPLE, EGG, CAKE)
BOOK, KITE, UMBRELLA = Phrase("책", "book"), Phrase("연", "kite"), Phrase("우산", "umbrella")
FLOWER, HAT, SCARF = Phrase("꽃", "flower"), Phrase("모자", "hat"), Phrase("목도리", "scarf")
COLOURED = (
    BOOK, KITE, UMBRELLA, HAT, SCARF, Phrase("외투", "coat"), Phrase("공", "ball"),
    Phrase("연필", "pencil"), Phrase("가방", "bag"), Phrase("컵", "cup"),
)  # fmt: skip
PLAIN = (Phrase("열쇠", "key"), Phrase("지우개", "eraser"))

CAT, PUPPY, RABBIT = Phrase("고양이", "cat"), Phrase("강아지", "puppy"), Phrase("토끼", "rabbit")
BIRD, DUCK, HORSE = Phrase("새", "bird"), Phrase("오리", "duck"), Phrase("말", "horse")
ELEPHANT, BEAR = Phrase("코끼리", "elephant"), Phrase("곰", "bear")
ANIMALS = (CAT, PUPPY, RABBIT, BIRD, DUCK, HORSE, ELEPHANT, BEAR)
PETS = (CAT, PUPPY, RABBIT)
PET_NAMES = (
    Phrase("나비", "Nabi"), Phrase("초코", "Choco"), Phrase("보리", "Bori"), Phrase("구름", "Gureum"),
    Phrase("별", "Byeol"),
)  # fmt: skip
PET_FOODS = {
    CAT: (Phrase("생선", "fish"), Phrase("우유", "milk")),
    PUPPY: (Phrase("고기", "meat"), Phrase("우유", "milk")),
    RABBIT: (Phrase("당근", "carrots"), Phrase("풀", "grass")),
}
HABITATS = {
    ZOO: (ELEPHANT, BEAR, BIRD, RABBIT),
    FARM: (HORSE, DUCK, RABBIT, PUPPY, CAT),
    FOREST: (BIRD, RABBIT, BEAR),
    PARK: (BIRD, PUPPY, CAT, DUCK),
    GARDEN: (BIRD, CAT, RABBIT),
    BEACH: (BIRD, PUPPY, HORSE),
    STATION: (CAT, PUPPY, BIRD),
    SCHOOL: (CAT, PUPPY, BIRD),
    PLAYGROUND: (CAT, PUPPY, BIRD),
}

GO = Verb("간다", "갔다", "갈 것이다", "go", "goes", "went")
BUY = Verb("산다", "샀다", "살 것이다", "buy", "buys", "bought")
SEE = Verb("본다", "보았다", "볼 것이다", "see", "sees", "saw")
EAT = Verb("먹는다", "먹었다", "먹을 것이다", "eat", "eats", "ate")
READ = Verb("읽는다", "읽었다", "읽을 것이다", "read", "reads", "read")
DRAW = Verb("그린다", "그렸다", "그릴 것이다", "draw", "draws", "drew")
MEET = Verb("만난다", "만났다", "만날 것이다", "meet", "meets", "met")
LIKE = Verb("좋아한다", "좋아했다", "좋아할 것이다", "like", "likes", "liked")
GIVE = Verb("준다", "주었다", "줄 것이다", "give", "gives", "gave")
RIDE = Verb("탄다", "탔다", "탈 것이다", "ride", "rides", "rode")
SING = Verb("부른다", "불렀다", "부를 것이다", "sing", "sings", "sang")
BUILD = Verb("쌓는다", "쌓았다", "쌓을 것이다", "build", "builds", "built")
MAKE = Verb("만든다", "만들었다", "만들 것이다", "make", "makes", "made")
PLANT = Verb("심는다", "심었다", "심을 것이다", "plant", "plants", "planted")
FLY = Verb("날린다", "날렸다", "날릴 것이다", "fly", "flies", "flew")
AWAIT = Verb("기다린다", "기다렸다", "기다릴 것이다", "wait for", "waits for", "waited for")
LOSE = Verb("잃어버린다", "잃어버렸다", "잃어버릴 것이다", "lose", "loses", "lost")
OPEN = Verb("펼친다", "펼쳤다", "펼칠 것이다", "open", "opens", "opened")
WEAR = Verb("두른다", "둘렀다", "두를 것이다", "wear", "wears", "wore")

# what one does there
ACTIVITIES: dict[Place, tuple[tuple[Verb, Phrase], ...]] = {
    SCHOOL: ((DRAW, Phrase("그림", "picture")), (SING, Phrase("노래", "song"))),
    MARKET: ((BUY, Phrase("생선", "fish")), (EAT, Phrase("만두", "dumpling"))),
    PARK: ((RIDE, Phrase("자전거", "bicycle")), (READ, BOOK)),
    LIBRARY: ((READ, BOOK), (READ, Phrase("만화책", "comic book"))),
    MUSEUM: ((SEE, Phrase("오래된 그림", "old picture")), (SEE, Phrase("오래된 배", "old ship"))),
    BEACH: ((BUILD, Phrase("모래성", "sandcastle")), (SEE, Phrase("배", "ship"))),
    BAKERY: ((EAT, COOKIE), (BUY, CAKE)),
    SHOP: ((BUY, Phrase("인형", "doll")), (BUY, Phrase("장난감", "toy"))),
    ZOO: ((SEE, ELEPHANT), (DRAW, BEAR)),
    FOREST: ((PLANT, Phrase("나무", "tree")), (DRAW, Phrase("나무", "tree"))),
    FARM: ((RIDE, HORSE), (EAT, APPLE)),
    GARDEN: ((PLANT, FLOWER), (PLANT, Phrase("나무", "tree"))),
    PLAYGROUND: ((FLY, KITE), (RIDE, Phrase("자전거", "bicycle"))),
    STATION: ((AWAIT, Phrase("기차", "train")), (BUY, Phrase("표", "ticket"))),
}

# weather → what people then do, with what, where; coloured things get a colour
WEATHER: tuple[tuple[Phrase, Verb, Phrase, tuple[Place, ...]], ...] = (
    (Phrase("비가 왔다.", "It rained."), OPEN, UMBRELLA, (STATION, MARKET, PARK, SCHOOL, ZOO)),
    (
        Phrase("눈이 왔다.", "It snowed."),
        MAKE,
        Phrase("눈사람", "snowman"),
        (PARK, SCHOOL, PLAYGROUND, GARDEN, FARM),
    ),
    (Phrase("바람이 불었다.", "It was windy."), FLY, KITE, (PARK, BEACH, PLAYGROUND, FARM)),
    (Phrase("바람이 불었다.", "It was windy."), LOSE, HAT, (STATION, BEACH, MARKET, ZOO, PARK)),
    (
        Phrase("날씨가 맑았다.", "It was sunny."),
        DRAW,
        Phrase("그림", "picture"),
        (PARK, BEACH, GARDEN, FARM, FOREST),
    ),
    (
        Phrase("날씨가 더웠다.", "It was hot."),
        EAT,
        Phrase("아이스크림", "ice cream"),
        (ZOO, BEACH, PARK, MARKET),
    ),
    (Phrase("날씨가 추웠다.", "It was cold."), WEAR, SCARF, (STATION, SCHOOL, MARKET, FOREST)),
)

HAPPY, GLAD, DELIGHTED = (
    Phrase("행복했다", "happy"),
    Phrase("기뻤다", "glad"),
    Phrase("즐거웠다", "delighted"),
)
PROUD, EXCITED = Phrase("뿌듯했다", "proud"), Phrase("신이 났다", "excited")
GOOD_FEELINGS = (HAPPY, GLAD, DELIGHTED, PROUD, EXCITED)
SAD, UPSET, LONELY = Phrase("슬펐다", "sad"), Phrase("속상했다", "upset"), Phrase("외로웠다", "lonely")
ANGRY, BORED = Phrase("화가 났다", "angry"), Phrase("심심했다", "bored")
BAD_FEELINGS = (SAD, UPSET, LONELY, ANGRY, BORED)
