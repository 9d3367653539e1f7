#include "formats/container/pickle.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "formats/container/pickle_text.hpp"
#include "formats/container/pickle_writer.hpp"

namespace reshard::formats {
namespace {

using namespace std::string_literals;

Json read(const std::string& pickle, const PickleLimits& limits = {}) {
  return read_pickle(std::as_bytes(std::span(pickle)), limits).value;
}

/// The message of the Error that reading throws; empty when it throws none.
std::string refusal(const std::string& pickle, const PickleLimits& limits = {}) {
  try {
    read(pickle, limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Kind::input);
    return error.what();
  }
  return "";
}

std::string text(const std::string& value) {
  std::string out = "X";
  for (int i = 0; i < 4; ++i) out += static_cast<char>(value.size() >> (8 * i));
  return out + value;
}

/// A storage's persistent id of `elements` (below 256) elements.
std::string storage(const std::string& elements, const std::string& type = "FloatStorage",
                    const std::string& key = "0", const std::string& view = "") {
  return "(" + text("storage") + "ctorch\n" + type + "\n" + text(key) + text("cpu") + "K" +
         elements + view + "tQ";
}

/// torch._utils._rebuild_tensor_v2 of a storage with offset, size and stride pickled by hand.
std::string tensor(const std::string& storage_id, const std::string& geometry,
                   const std::string& rest =
                       "\x89"
                       "ccollections\nOrderedDict\n)R") {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage_id + geometry + rest + "tR";
}

TEST(Pickle, ScalarsOfAllProtocols) {
  const std::vector<std::pair<std::string, Json>> cases = {
      {"N.", nullptr},
      {"\x88.", true},
      {"\x89.", false},
      {"I01\n.", true},
      {"I00\n.", false},
      {"K\xff.", 255},
      {"M\xff\xff.", 65535},
      {"J\xff\xff\xff\xff.", -1},
      {"I-12\n.", -12},
      {"L34L\n.", 34},
      {"\x8a\x00."s, 0},
      {"\x8a\x01\xff.", -1},
      {"\x8a\x09\x01\x00\x00\x00\x00\x00\x00\x00\x00."s, 1},
      {"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00."s, 18446744073709551615ULL},
      {"\x8a\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00."s, 18446744073709551615ULL},
      {"\x8b\x02\x00\x00\x00\x00\x01."s, 256},
      {"G\x3f\xe0\x00\x00\x00\x00\x00\x00."s, 0.5},
      {"F1.25\n.", 1.25},
      {"X\x02\x00\x00\x00\xc2\xb5."s, "µ"},
      {"\x8c\x01"
       "a.",
       "a"},
      {"\x8d\x01\x00\x00\x00\x00\x00\x00\x00"
       "a."s,
       "a"},
      {"U\x01"
       "a.",
       "a"},
      {"T\x01\x00\x00\x00"
       "a."s,
       "a"},
      {"S'a\\n\\x41\\'\\q'\n.", "a\nA'\\q"},
      {"Va\\u00b5\xb5\n.", "aµµ"},
  };
  for (const auto& [pickle, value] : cases) EXPECT_EQ(read(pickle), value) << pickle;
}

TEST(Pickle, WhatJsonLacksIsTagged) {
  const std::vector<std::pair<std::string, const char*>> cases = {
      {"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xff."s,
       R"({"!":"int","value":"-18446744073709551616"})"},
      {"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
       R"({"!":"int","value":"119547037146038801333356"})"},
      {"L-119547037146038801333356L\n.", R"({"!":"int","value":"-119547037146038801333356"})"},
      {"G\x7f\xf0\x00\x00\x00\x00\x00\x00."s, R"({"!":"float","value":"inf"})"},
      {"G\xff\xf0\x00\x00\x00\x00\x00\x00."s, R"({"!":"float","value":"-inf"})"},
      {"G\x7f\xf8\x00\x00\x00\x00\x00\x00."s, R"({"!":"float","value":"nan"})"},
      {"U\x02\xff\xfe.", R"({"!":"str","hex":"fffe"})"},
      {"C\x02\xff\x00."s, R"({"!":"bytes","hex":"ff00"})"},
      {"B\x01\x00\x00\x00z."s, R"({"!":"bytes","hex":"7a"})"},
      {").", R"({"!":"tuple","items":[]})"},
      {"K\1K\2\x86.", R"({"!":"tuple","items":[1,2]})"},
      {"(K\1K\2K\3K\4t.", R"({"!":"tuple","items":[1,2,3,4]})"},
      {"\x8f(K\1K\2\x90.", R"({"!":"set","items":[1,2]})"},
      {"(K\1\x91.", R"({"!":"set","items":[1]})"},
      {"c__builtin__\nset\n](K\1K\2e\x85R.", R"({"!":"set","items":[1,2]})"},
      {"ctorch\nbfloat16\n.", R"({"!":"global","name":"torch.bfloat16"})"},
      {"\x8c\5torch\x8c\7float32\x93.", R"({"!":"global","name":"torch.float32"})"},
      {"c_codecs\nencode\nX\x03\x00\x00\x00"
       "a\xc3\xbfU\x06latin1\x86R."s,
       R"({"!":"bytes","hex":"61ff"})"},
      {"c__builtin__\nbytes\n)R.", R"({"!":"bytes","hex":""})"},
      {"ctorch\nSize\nK\2K\3\x86\x85R.", R"({"!":"tuple","items":[2,3]})"},
      {"}K\1K\2s.", R"({"!":"dict","items":[[1,2]]})"},
      {"}U\1!K\2s.", R"({"!":"dict","items":[["!",2]]})"},
      {"}U\1\xffK\2s.", R"({"!":"dict","items":[[{"!":"str","hex":"ff"},2]]})"},
      {"ccollections\nOrderedDict\n)RK\1K\2s.",
       R"({"!":"dict","class":"collections.OrderedDict","items":[[1,2]]})"},
  };
  for (const auto& [pickle, json] : cases) EXPECT_EQ(read(pickle), Json::parse(json)) << pickle;
  const Json large = read("B\x88\x13\x00\x00"s + std::string(5000, 'x') + ".");
  EXPECT_EQ(large, Json::parse(R"({"!":"bytes","size":5000})"));
}

TEST(Pickle, DictsKeepTheirOrderAndLastValue) {
  EXPECT_EQ(read("}(U\1bK\1U\1aK\2U\1bK\3u.").dump(), R"({"b":3,"a":2})");
  EXPECT_EQ(read("(U\1aK\1d.").dump(), R"({"a":1})");
  // OrderedDict with its _metadata attribute, as Module.state_dict() gives it
  EXPECT_EQ(read("ccollections\nOrderedDict\n)R(U\1aK\1u}U\x09_metadataNsb.").dump(), R"({"a":1})");
  EXPECT_EQ(read("ccollections\nOrderedDict\n]](U\1aK\1ea\x85R.").dump(), R"({"a":1})");
  EXPECT_EQ(read("ccollections\ndefaultdict\nc__builtin__\nlist\n\x85RU\1aK\1s.").dump(),
            R"({"a":1})");
}

TEST(Pickle, ObjectsAreInert) {
  EXPECT_EQ(read("cargparse\nNamespace\n)\x81}U\1aK\1sb.").dump(),
            R"({"!":"object","class":"argparse.Namespace","args":[],"state":{"a":1}})");
  EXPECT_EQ(read("cposix\nsystem\nU\2ls\x85R.").dump(),
            R"({"!":"object","class":"posix.system","args":["ls"]})");
  EXPECT_EQ(read("cm\nE\nK\5\x85R.").dump(), R"({"!":"object","class":"m.E","args":[5]})");
  EXPECT_EQ(read("c__builtin__\ngetattr\ncm\nE\nU\4NAME\x86R.").dump(),
            R"({"!":"object","class":"m.E","args":["NAME"],"by":"getattr"})");
  EXPECT_EQ(read("c__builtin__\ngetattr\ncm\nE\nU\1I\x86R)\x81.").dump(),
            R"({"!":"object","class":"m.E.I","args":[]})");
  EXPECT_EQ(read("cm\nL\n)\x81(K\1K\2e(K\3K\4u.").dump(),
            R"({"!":"object","class":"m.L","args":[],"items":[[3,4]],"list":[1,2]})");
}

TEST(Pickle, Tensors) {
  const std::string flat = "K\2K\2K\3\x86K\3K\1\x86";
  EXPECT_EQ(read(tensor(storage("\x08"), flat) + ".").dump(),
            R"({"!":"tensor","dtype":"F32","shape":[2,3],"storage":"0","offset":2})");
  EXPECT_EQ(read(tensor(storage("\x08"), "K\2K\2K\3\x86K\1K\2\x86") + ".").at("strides").dump(),
            "[1,2]");
  const std::string parameter = "ctorch._utils\n_rebuild_parameter\n" +
                                tensor(storage("\x08"), flat) +
                                "\x88"
                                "ccollections\nOrderedDict\n)R\x87R.";
  EXPECT_EQ(read(parameter).at("!"), "tensor");
  const std::string wrapped = "ctorch._tensor\n_rebuild_from_type_v2\n(" +
                              "ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n("s +
                              storage("\x08") + flat +
                              "\x89"
                              "ccollections\nOrderedDict\n)Rt}U\6sharedNstR.";
  EXPECT_EQ(read(wrapped).at("!"), "tensor");
  const std::string fp8 = "ctorch._utils\n_rebuild_tensor_v3\n((" + text("storage") +
                          "ctorch.storage\nUntypedStorage\n" + text("0") + text("cpu") + "K\x08tQ" +
                          flat +
                          "\x89"
                          "ccollections\nOrderedDict\n)Rctorch\nfloat8_e5m2\ntR.";
  EXPECT_EQ(read(fp8).at("dtype"), "F8_E5M2");
  // legacy: a view of 4 elements at 3 in a storage of 8
  const std::string view = storage("\x08", "HalfStorage", "7", text("v") + "K\3K\4\x87");
  EXPECT_EQ(read(tensor(view, "K\1K\3\x85K\1\x85") + ".").at("offset"), 4);
  EXPECT_NE(refusal(tensor(view, "K\2K\3\x85K\1\x85") + "."), "");
  EXPECT_EQ(read(storage("\x08") + ".").dump(),
            R"({"!":"storage","class":"torch.FloatStorage","key":"0","numel":8})");
}

TEST(Pickle, TensorsThatAreRefused) {
  const std::string hooks =
      "\x89"
      "ccollections\nOrderedDict\n)R";
  const std::vector<std::pair<std::string, const char*>> cases = {
      {tensor(storage("\x07"), "K\2K\2K\3\x86K\3K\1\x86"), "do not fit storage"},
      {tensor(storage("\x08"), "J\xff\xff\xff\xffK\2\x85K\1\x85"), "storage offset"},
      {tensor(storage("\x08"), "K\0J\xfe\xff\xff\xff\x85K\1\x85"s), "its size"},
      {tensor(storage("\x08"), "K\0K\2\x85J\xff\xff\xff\xff\x85"s), "its stride"},
      {tensor(storage("\x08"), "K\0K\2K\2\x86K\1\x85"s), "with stride"},
      {tensor(storage("\x08"), "K\0\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\3\x86K\3K\1\x86"s),
       "does not fit 64 bits"},
      {tensor(storage("\x08", "QInt8Storage"), "K\0K\2\x85K\1\x85"s), "not supported"},
      {tensor(storage("\x08"), "K\0K\2\x85K\1\x85"s, hooks + "}U\4conj\x88s"), "lazy view"},
      {tensor("N", "K\0K\2\x85K\1\x85"s), "no storage"},
      {tensor(storage("\x08"), "K\0K\2\x85"s, ""), "arguments"},
      {storage("\x08") + storage("\x09") + "\x86", "and also"},
      {storage("\x08") + storage("\x08", "HalfStorage") + "\x86", "and also"},
      {"U\6moduleK\1\x86Q", "names no storage"},
  };
  for (const auto& [pickle, message] : cases) {
    EXPECT_NE(refusal(pickle + ".").find(message), std::string::npos) << refusal(pickle + ".");
  }
}

TEST(Pickle, HostileStreamsAreRefused) {
  const std::vector<std::pair<std::string, const char*>> cases = {
      {"", "does not end"},
      {"N", "does not end"},
      {"X\xff\xff\xff\xff"
       "a",
       "does not end"},
      {"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
       "a.",
       "does not end"},
      {"\x8b\xff\xff\xff\xff.", "negative length"},
      {"\x8b\xff\xff\xff\x7f.", "does not end"},
      {"T\xff\xff\xff\xff.", "negative length"},
      {".", "stack is empty"},
      {"NN.", "left on the stack"},
      {"N(.", "stack is empty"},
      {"0.", "stack is empty"},
      {"2.", "stack is empty"},
      {"(N\x86.", "stack is empty"},
      {"t.", "no mark"},
      {"1.", "no mark"},
      {"]e.", "no mark"},
      {"h\1.", "memo 1"},
      {"j\xff\xff\xff\xff.", "memo 4294967295"},
      {"g12x\n.", "memo index"},
      {"q\1.", "stack is empty"},
      {"}(Nu.", "key without a value"},
      {"NNa.", "no list"},
      {"NNNs.", "no dict"},
      {"](N\x90.", "no set"},
      {"N}b.", "no object"},
      {"cm\nn\nNR.", "no tuple"},
      {"cm\nn\n)}NNs\x92.", "keyword"},
      {"NN\x93.", "no text"},
      {"\x80\x06N.", "protocol"},
      {"\x82\x01.", "not an opcode"},
      {"Pid\n.", "not an opcode"},
      {"(im\nn\n.", "not an opcode"},
      {"(cm\nn\no.", "not an opcode"},
      {"\x97.", "not an opcode"},
      {"I12x\n.", "not an integer"},
      {"F1.x\n.", "not a number"},
      {"Sabc\n.", "without its quotes"},
      {"\x8a\xff" + std::string(255, '\1') + ".", "too many bytes"},
      {"NQ.", "names no storage"},
      // a list that contains itself
      {"]q\1h\1a.", "nested deeper"},
      {std::string(300, ']') + std::string(299, 'a') + ".", "nested deeper"},
  };
  for (const auto& [pickle, message] : cases) {
    EXPECT_NE(refusal(pickle).find(message), std::string::npos)
        << hex_of(pickle) << ": " << refusal(pickle);
  }
  EXPECT_NE(refusal("h\1.").find("at byte 0"), std::string::npos);
}

TEST(Pickle, SharedValuesCannotExplode) {
  std::string laughs = "]q\x00"s;
  for (char level = 1; level < 60; ++level) {
    laughs += "](";
    for (int i = 0; i < 8; ++i) laughs += "h"s + static_cast<char>(level - 1);
    laughs += "eq"s + level;
  }
  // all levels but the top stay below it on the stack, so gather them
  laughs = "(" + laughs + "t.";
  const PickleLimits limits{1 << 20, 100'000};
  EXPECT_NE(refusal(laughs, limits).find("more than 100000 parts"), std::string::npos);
  // long texts count too
  std::string texts = "](" + text(std::string(100'000, 'x')) + "q\1";
  for (int i = 0; i < 1000; ++i) texts += "h\1";
  EXPECT_NE(refusal(texts + "e.", limits).find("parts"), std::string::npos);
  EXPECT_NE(refusal("(" + std::string(200'000, ']') + "t.", limits).find("more than"),
            std::string::npos);
  EXPECT_NE(refusal(text(std::string(2 << 20, 'x')) + ".", limits).find("at most"),
            std::string::npos);
}

TEST(Pickle, SaysWhereItEnds) {
  const std::string two = "K\1.K\2.";
  const auto first = try_read_pickle(std::as_bytes(std::span(two)));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->bytes, 3u);
  EXPECT_FALSE(try_read_pickle(std::as_bytes(std::span("K\1", 2))).has_value());
}

TEST(PickleWriter, WhatIsWrittenIsRead) {
  const Json value = Json::parse(R"({"a":[null,true,false,0,255,256,65535,65536,-1,2147483647,
      -2147483648,2147483648,-9223372036854775808,9223372036854775807,18446744073709551615,1.5,"µ"],
      "int":{"!":"int","value":"-119547037146038801333356"},"big":{"!":"int","value":"36893488147419103232"},
      "float":[{"!":"float","value":"inf"},{"!":"float","value":"-inf"},{"!":"float","value":"nan"}],
      "str":{"!":"str","hex":"fffe"},"bytes":{"!":"bytes","hex":"00ff"},"none":{"!":"bytes","hex":""},
      "tuples":[{"!":"tuple","items":[]},{"!":"tuple","items":[1,2,3]},{"!":"tuple","items":[1,2,3,4]}],
      "set":{"!":"set","items":["x"]},"global":{"!":"global","name":"torch.bfloat16"},
      "dict":{"!":"dict","items":[[0,"zero"],["!",1]]},"empty":[{},[]],
      "ordered":{"!":"dict","class":"collections.OrderedDict","items":[[0,"zero"]]},
      "args":{"!":"object","class":"argparse.Namespace","args":[],"state":{"x":1}},
      "enum":{"!":"object","class":"m.E","args":[2]},
      "member":{"!":"object","class":"m.E","args":["NAME"],"by":"getattr"},
      "slice":{"!":"object","class":"builtins.slice","args":[1,2,null]}})");
  EXPECT_EQ(read(write_pickle(value, {})).dump(), value.dump());
}

TEST(PickleWriter, TensorsOfAllDtypes) {
  for (int i = 0; i <= static_cast<int>(Dtype::c128); ++i) {
    const auto dtype = static_cast<Dtype>(i);
    if (bits(dtype) < 8 || torch_name(dtype).empty()) continue;
    const std::vector<TensorSpec> tensors = {{"t", dtype, {2, 3}}};
    const Json json = read(write_pickle(Json{{"!", "tensor"}, {"index", 0}}, tensors));
    EXPECT_EQ(json.dump(), R"({"!":"tensor","dtype":")" + std::string(name(dtype)) +
                               R"(","shape":[2,3],"storage":"0","offset":0})");
  }
}

TEST(PickleWriter, RefusesWhatItCannotWrite) {
  for (const char* json :
       {R"({"!":"bytes","size":5000})", R"({"!":"storage","key":"0"})", R"({"!":"what"})",
        R"({"!":"global","name":"nodot"})", R"({"!":"int","value":"12x"})",
        R"({"!":"float","value":"0"})", R"({"!":"bytes","hex":"f"})",
        R"({"!":"object","class":"m.L","args":[],"list":[1]})"}) {
    EXPECT_THROW(write_pickle(Json::parse(json), {}), Error) << json;
  }
  EXPECT_THROW(write_pickle(Json{{"!", "tensor"}, {"index", 0}}, {}), Error);
}

TEST(PickleText, Utf8) {
  for (const char* good :
       {"", "a", "\xc2\x80", "\xe0\xa0\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(good)) << hex_of(good);
  }
  for (const char* bad : {"\x80", "\xc1\x80", "\xc2", "\xe0\x9f\x80", "\xed\xa0\x80",
                          "\xf0\x8f\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc2\x41"}) {
    EXPECT_FALSE(is_utf8(bad)) << hex_of(bad);
  }
}

}  // namespace
}  // namespace reshard::formats
