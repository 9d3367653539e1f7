#include "formats/container/hdf5_file.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "core/error.hpp"
#include "formats/container/hdf5_layout.hpp"
#include "formats/file.hpp"
#include "support/hdf5_maker.hpp"

namespace reshard::formats {
namespace {

using test::Hdf5Maker;

class Hdf5File : public testing::Test {
 protected:
  [[nodiscard]] std::string path() const { return folder_ / "m.h5"; }
  FileIndex read() const { return read_hdf5(path(), "m.h5"); }
  /// What the reader says against a file that `make` makes.
  std::string refusal(const std::function<void(const Hdf5Maker&)>& make,
                      H5F_libver_t version = H5F_LIBVER_EARLIEST) const {
    {
      const Hdf5Maker maker(path(), version);
      make(maker);
    }
    return refusal();
  }
  std::string refusal() const {
    try {
      read();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Kind::input) << error.what();
      EXPECT_TRUE(std::string(error.what()).starts_with("m.h5: ")) << error.what();
      return error.what();
    }
    return "";
  }
  test::Folder folder_;
};

/// Whether a text has a part.
testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << text << "\" has no \"" << part << "\"";
}

TEST_F(Hdf5File, JoinsTheNamesOfForeignGroups) {
  for (const H5F_libver_t version : {H5F_LIBVER_EARLIEST, H5F_LIBVER_V110}) {
    {
      const Hdf5Maker maker(path(), version);
      maker.group("model");
      maker.group("model/layers");
      maker.group("model/layers/0");
      maker.counted("model/layers/0/q.weight", {4, 6});
      maker.counted("lm_head", {5});
    }
    const FileIndex index = read();
    ASSERT_EQ(index.tensors.size(), 2U);
    EXPECT_EQ(index.tensors[0].name, "lm_head");
    EXPECT_EQ(index.tensors[1].name, "model.layers.0.q.weight");
    EXPECT_EQ(index.tensors[1].shape, (Shape{4, 6}));
    EXPECT_EQ(index.tensors[1].dtype, Dtype::f32);
    float last = 0;
    std::memcpy(&last, test::content_of(path()).data() + index.tensors[1].offset + 23 * 4, 4);
    EXPECT_EQ(last, 23.0F);
    EXPECT_EQ(index.facts, Json::object());
    EXPECT_EQ(index.bytes, test::content_of(path()).size());
  }
}

TEST_F(Hdf5File, TakesASecondNameOfADataset) {
  {
    const Hdf5Maker maker(path());
    maker.counted("a", {4});
    test::done(H5Lcreate_hard(maker.file(), "a", maker.file(), "b", H5P_DEFAULT, H5P_DEFAULT));
  }
  const FileIndex index = read();
  ASSERT_EQ(index.tensors.size(), 2U);
  EXPECT_EQ(index.tensors[0].offset, index.tensors[1].offset);
}

TEST_F(Hdf5File, FindsChunks) {
  {
    const Hdf5Maker maker(path());
    const hsize_t chunk[] = {3, 4};
    test::done(H5Pset_chunk(maker.list(), 2, chunk));
    maker.counted("plain", {5, 6});
    test::done(H5Pset_shuffle(maker.list()));
    test::done(H5Pset_deflate(maker.list(), 4));
    test::done(H5Pset_fletcher32(maker.list()));
    maker.counted("packed", {5, 6});
    maker.unwritten("none", H5T_IEEE_F32LE, {0, 6});
  }
  const FileIndex index = read();
  ASSERT_EQ(index.tensors.size(), 3U);
  EXPECT_EQ(index.tensors[0].chunks, nullptr);  // "none"
  const auto& packed = index.tensors[1].chunks;
  ASSERT_NE(packed, nullptr);
  using Filter = Chunking::Filter;
  EXPECT_EQ(packed->filters, (std::vector{Filter::shuffle, Filter::deflate, Filter::fletcher32}));
  EXPECT_EQ(packed->extent, (Shape{3, 4}));
  ASSERT_NE(index.tensors[2].chunks, nullptr);
  ASSERT_EQ(index.tensors[2].chunks->places.size(), 4U);
  EXPECT_EQ(index.tensors[2].chunks->places[3].bytes, 48U);
  const FileIndex shared = index_from_json(Json::from_cbor(Json::to_cbor(to_json(index))));
  EXPECT_EQ(*shared.tensors[1].chunks, *packed);
  EXPECT_EQ(*shared.tensors[2].chunks, *index.tensors[2].chunks);
}

TEST_F(Hdf5File, RefusesLinksAndCycles) {
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    m.group("a");
                    test::done(
                        H5Lcreate_hard(m.file(), "a", m.file(), "a/b", H5P_DEFAULT, H5P_DEFAULT));
                  }),
                  "m.h5: a.b: this group has another name too, or lies within itself"));
  EXPECT_TRUE(
      has(refusal([](const Hdf5Maker& m) {
            m.group("a");
            test::done(H5Lcreate_hard(m.file(), "/", m.file(), "a/root", H5P_DEFAULT, H5P_DEFAULT));
          }),
          "a.root: this group has another name"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    test::done(H5Lcreate_soft("/x", m.file(), "x", H5P_DEFAULT, H5P_DEFAULT));
                  }),
                  "x: a soft link"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    test::done(H5Lcreate_external("/etc/passwd", "/", m.file(), "x", H5P_DEFAULT,
                                                  H5P_DEFAULT));
                  }),
                  "x: an external link"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    std::string name = "g";
                    for (int i = 0; i < 40; ++i, name += "/g") m.group(name);
                  }),
                  "nested deeper than 32"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) { m.counted("a\xff", {2}); }), "not UTF-8"));
}

TEST_F(Hdf5File, RefusesDataElsewhere) {
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    test::done(H5Pset_external(m.list(), "/etc/passwd", 0, 40));
                    m.unwritten("x", H5T_IEEE_F32LE, {10});
                  }),
                  "x: its data lies in another file"));
  EXPECT_TRUE(has(refusal(
                      [](const Hdf5Maker& m) {
                        const hsize_t ten = 10;
                        const hid_t space = H5Screate_simple(1, &ten, nullptr);
                        test::done(H5Pset_virtual(m.list(), space, "/etc/passwd", "/y", space));
                        m.unwritten("x", H5T_IEEE_F32LE, {10});
                        H5Sclose(space);
                      },
                      H5F_LIBVER_V110),
                  "x: is a virtual dataset"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    test::done(H5Pset_layout(m.list(), H5D_COMPACT));
                    m.counted("x", {10});
                  }),
                  "x: its data lies within its header"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) { m.unwritten("x", H5T_IEEE_F32LE, {10}); }),
                  "x: was never written"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    const hsize_t chunk = 4;
                    test::done(H5Pset_chunk(m.list(), 1, &chunk));
                    m.unwritten("x", H5T_IEEE_F32LE, {10});
                  }),
                  "x: chunk [0] was never written"));
}

TEST_F(Hdf5File, RefusesTypes) {
  const auto of = [&](hid_t type) {
    return refusal([type](const Hdf5Maker& m) {
      test::done(H5Pset_alloc_time(m.list(), H5D_ALLOC_TIME_EARLY));
      m.unwritten("x", type, {10});
    });
  };
  const std::pair<hid_t, const char*> types[] = {
      {H5T_IEEE_F32BE, "holds big-endian numbers of 4 bytes"},
      {H5T_STD_I16BE, "holds big-endian numbers of 2 bytes"},
      {H5T_STD_B8LE, "holds values of 1 bytes"},
      {H5T_C_S1, "holds texts"},
      {H5T_STD_REF_OBJ, "holds values of 8 bytes"}};
  for (const auto& [type, wanted] : types) EXPECT_TRUE(has(of(type), wanted)) << wanted;
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
                    test::done(
                        H5Tcommit2(m.file(), "t", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                    H5Tclose(type);
                  }),
                  "t: a committed type"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
                    m.group("a");
                    test::done(
                        H5Tcommit2(m.file(), "t", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
                    test::done(H5Pset_alloc_time(m.list(), H5D_ALLOC_TIME_EARLY));
                    m.unwritten("a/x", type, {10});
                    H5Tclose(type);
                  }),
                  "a.x: has a committed type"));
}

TEST_F(Hdf5File, TakesTheDtypeThatAnAttributeSays) {
  const auto told = [&](bool own, const std::string& dtype) {
    return refusal([&](const Hdf5Maker& m) {
      if (own) {
        m.attribute("/", "format", hdf5_format);
        m.number("format_version", 1);
        m.group("tensors");
      }
      const std::string name = own ? "tensors/x" : "x";
      m.counted(name, {10});
      m.attribute(name, "dtype", dtype);
    });
  };
  EXPECT_EQ(told(true, "F32"), "");
  EXPECT_TRUE(has(told(true, "BF16"), "x: attribute dtype says BF16, the stored type is F32"));
  EXPECT_TRUE(has(told(true, "float32"), "no dtype 'float32'"));
  EXPECT_TRUE(has(told(true, std::string(1000, 'F')), "no dtype 'FFF"));
  for (const char* word : {"F32", "BF16", "float32", "x"}) EXPECT_EQ(told(false, word), "");
}

TEST_F(Hdf5File, RefusesFilters) {
  // Filters of plugins are never looked for, wherever the environment points.
  ::setenv("HDF5_PLUGIN_PATH", "/tmp", 1);
  const auto text = refusal([](const Hdf5Maker& m) {
    const hsize_t chunk = 4;
    test::done(H5Pset_chunk(m.list(), 1, &chunk));
    test::done(H5Pset_filter(m.list(), 32015, H5Z_FLAG_OPTIONAL, 0, nullptr));
    m.counted("x", {10});
  });
  EXPECT_TRUE(has(text, "x: its filter 32015"));
  EXPECT_TRUE(has(text, "h5repack"));
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    const hsize_t chunk[] = {4};
                    test::done(H5Pset_chunk(m.list(), 1, chunk));
                    test::done(H5Pset_scaleoffset(m.list(), H5Z_SO_INT, 0));
                    m.counted("x", {10});
                  }),
                  "x: its filter 6"));
}

TEST_F(Hdf5File, RefusesAbsurdSizes) {
  EXPECT_TRUE(has(refusal([](const Hdf5Maker& m) {
                    const hsize_t chunk[] = {1, 1};
                    test::done(H5Pset_chunk(m.list(), 2, chunk));
                    test::done(H5Pset_alloc_time(m.list(), H5D_ALLOC_TIME_INCR));
                    m.unwritten("x", H5T_IEEE_F32LE, {1ULL << 30, 1ULL << 30});
                    m.unwritten("y", H5T_IEEE_F32LE, {1ULL << 31, 1ULL << 31});
                  }),
                  "x: has 1152921504606846976 chunks in a file of"));
  {
    const Hdf5Maker maker(path());
    test::done(H5Pset_alloc_time(maker.list(), H5D_ALLOC_TIME_EARLY));
    test::done(H5Pset_fill_time(maker.list(), H5D_FILL_TIME_NEVER));
    maker.counted("a", {10});
    maker.unwritten("x", H5T_IEEE_F32LE, {1 << 30});
  }
  // HDF5 itself refuses a file that is shorter than its own header says.
  std::filesystem::resize_file(path(), 4096);
  EXPECT_TRUE(has(refusal(), "truncated")) << refusal();
}

TEST_F(Hdf5File, RefusesDataBeyondTheEnd) {
  {
    const Hdf5Maker maker(path());
    maker.counted("x", {10});
  }
  std::string bytes = test::content_of(path());
  // The layout in the header: where the data lies and how much it is.
  std::array<std::uint64_t, 2> place = {read().tensors.at(0).offset, 40};
  const std::string told(reinterpret_cast<const char*>(place.data()), sizeof place);
  const std::size_t at = bytes.find(told);
  ASSERT_NE(at, std::string::npos);
  ASSERT_EQ(bytes.find(told, at + 1), std::string::npos);
  for (const std::uint64_t beyond : {bytes.size() - 39, bytes.size() + 1}) {
    place[0] = beyond;
    std::memcpy(&bytes[at], place.data(), sizeof place);
    write_text(path(), bytes);
    EXPECT_TRUE(has(refusal(), "x: its 40 bytes at " + std::to_string(beyond) +
                                   " lie beyond the end of the file"));
  }
}

TEST_F(Hdf5File, RefusesWhatIsNotHdf5) {
  write_text(path(), "no HDF5 at all");
  EXPECT_EQ(refusal(), "m.h5: not an HDF5 file");
  write_text(path(), "\x89HDF\r\n\x1a\n");
  EXPECT_TRUE(has(refusal(), "m.h5: H5Fopen: "));
  write_text(path(), "\x89HDF\r\n\x1a\n" + std::string(5000, '\x07'));
  EXPECT_TRUE(has(refusal(), "m.h5: H5Fopen: "));
  std::filesystem::remove(path());
  std::filesystem::create_directory(path());
  EXPECT_EQ(refusal(), "m.h5: not an HDF5 file");
}

TEST_F(Hdf5File, RefusesOwnFilesThatAreNotAsTold) {
  const auto own = [&](const std::function<void(const Hdf5Maker&)>& change) {
    return refusal([&](const Hdf5Maker& m) {
      m.attribute("/", "format", hdf5_format);
      change(m);
    });
  };
  EXPECT_TRUE(has(own([](const Hdf5Maker&) {}), "format_version null of reshard-h5"));
  EXPECT_TRUE(has(own([](const Hdf5Maker& m) { m.attribute("/", "format_version", "1"); }),
                  "format_version \"1\" of reshard-h5"));
  const auto versioned = [&](const std::function<void(const Hdf5Maker&)>& change) {
    return own([&](const Hdf5Maker& m) {
      m.number("format_version", 1);
      change(m);
    });
  };
  EXPECT_EQ(versioned([](const Hdf5Maker&) {}), "");
  EXPECT_TRUE(has(versioned([](const Hdf5Maker& m) { m.counted("tensors", {2}); }),
                  "tensors: wanted a group"));
  EXPECT_TRUE(has(versioned([](const Hdf5Maker& m) {
                    m.group("tensors");
                    m.group("tensors/inner");
                  }),
                  "inner: wanted a dataset"));
  EXPECT_TRUE(has(versioned([](const Hdf5Maker& m) {
                    m.group("metadata");
                    m.counted("metadata/config.json", {2});
                  }),
                  "metadata/config.json: wanted a contiguous row of bytes"));
  EXPECT_TRUE(has(versioned([](const Hdf5Maker& m) { m.attribute("/", "names", "\xff"); }),
                  "attribute names: not UTF-8"));
}

// Every byte of small files, old and new, set to other values: refused or read, never a crash of
// ours; what it says is never empty.
TEST_F(Hdf5File, SurvivesDamage) {
  std::size_t refused = 0, all = 0;
  for (const H5F_libver_t version : {H5F_LIBVER_EARLIEST, H5F_LIBVER_V110}) {
    {
      const Hdf5Maker maker(path(), version);
      maker.group("g");
      maker.counted("g/x", {2});
    }
    const std::string whole = test::content_of(path());
    const std::size_t step = whole.size() / 60 + 1;
    for (std::size_t at = 8; at < whole.size(); at += step) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 0xff);
      write_text(path(), damaged);
      try {
        read();
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), Kind::input) << at << ": " << error.what();
        EXPECT_GT(std::string(error.what()).size(), 10U);
        ++refused;
      }
      ++all;
    }
  }
  EXPECT_GT(refused, all / 10);
  EXPECT_GT(all, 100U);
}

}  // namespace
}  // namespace reshard::formats
